"""Small networks: the code of a kernel that trains the whole network by itself, and who launches it."""
