"""Pages to convert, record and listen in a browser, and the HTTP interface beside them: ``aasvc serve``."""
