"""Look at runs in a browser: a local web page, and reports."""
