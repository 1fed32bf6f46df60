// JSON made readable without being read as numbers: what was sent as 1.0, or with twenty digits, stays so.

const TOKEN = /"(?:[^"\\]|\\.)*"|[[\]{}:,]|[^\s[\]{}:,"]+/g;
const DEEPEST = 40; // levels that are indented

// text is valid JSON. Each innermost list stands on one line: a row of a tensor is read as a row.
export function pretty(text) {
  const tokens = text.match(TOKEN) || [], parts = [];
  let depth = 0;
  const line = () => "\n" + "  ".repeat(Math.min(depth, DEEPEST));
  for (let i = 0; i < tokens.length; i++) {
    const token = tokens[i];
    if (token === "[" || token === "{") {
      let end = i + 1;
      while (!"[]{}".includes(tokens[end])) end++;
      if (end === i + 1 && "]}".includes(tokens[end])) {
        parts.push(token, tokens[end]);
        i = end;
      } else if (token === "[" && tokens[end] === "]") {
        parts.push(token, ...tokens.slice(i + 1, end).map((each) => (each === "," ? ", " : each)), "]");
        i = end;
      } else {
        depth++;
        parts.push(token, line());
      }
    } else if (token === "]" || token === "}") {
      depth--;
      parts.push(line(), token);
    } else if (token === ",") {
      parts.push(token, line());
    } else {
      parts.push(token === ":" ? ": " : token);
    }
  }
  return parts.join("");
}
