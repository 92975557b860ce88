"""The command line ``gstds``, a file for each larger command."""
