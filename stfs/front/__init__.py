"""Front processes: they accept, parse and answer HTTP; one engine in the main process runs every model."""
