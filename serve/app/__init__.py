"""HTTP server and application: JSON API, pages, batches of inputs, and what protects them."""
