"""What a release is made with; no part of the installed package."""
