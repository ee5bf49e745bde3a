"""What makes the site of the pages in `docs`: the command line, the interface in Python, notebooks and links."""
