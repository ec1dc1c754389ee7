"""The Courier seam: carries commands out and outcomes back."""
