"""What all other folders use: errors, files, devices, programs, packages, random numbers. It imports none of them."""
