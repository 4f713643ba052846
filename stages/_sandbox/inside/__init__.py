"""What runs below the server process: standard library only, and nothing of it is left for a program to import."""
