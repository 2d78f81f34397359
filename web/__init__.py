"""Web pages: Jinja2 templates, one stylesheet, scripts, and the function that renders a page."""
