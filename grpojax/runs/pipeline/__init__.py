"""Many runs from one file: recipes x tasks x seeds, each trained, judged, reported."""
