// Shows /openapi.json. No validator badge: it would send the document's address to somebody else's server.
window.ui = SwaggerUIBundle({
  // By its origin: a page that was opened by an address with a password in it may not fetch a relative one.
  url: window.location.origin + "/openapi.json",
  dom_id: "#api",
  docExpansion: "list",
  defaultModelsExpandDepth: -1,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  validatorUrl: null,
});
