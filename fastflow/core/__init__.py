"""What every floor needs: errors, files, devices, others' code, random numbers; it knows of nothing above it."""
