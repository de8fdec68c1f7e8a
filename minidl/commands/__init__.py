"""The commands of the command line, one file each: read its arguments, call one room, print."""
