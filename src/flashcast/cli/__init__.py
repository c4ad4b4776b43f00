"""The command line: a thin door. Each file is one command; all of them call the layers below."""
