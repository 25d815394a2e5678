"""Tables, curves, charts, drawings and the HTML report: plain rows and arrays in, text and picture bytes out."""
