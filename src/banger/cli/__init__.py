"""What you type: one module per noun, loaded when it is needed; parses words, asks the client, prints results."""
