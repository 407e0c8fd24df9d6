"""The web page and its HTTP interface (extra `web`); `quantsr serve` starts them. See docs/web.md."""
