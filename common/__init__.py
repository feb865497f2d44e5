"""What every part of the package may use: errors, command lines, paths, tables. It imports nothing of the package."""
