"""What all other packages use: errors, files, manifests, cache keys, devices and the command line."""
