"""What all other folders use: errors, files, devices, optional packages, random numbers. It imports none of them."""
