"""Files as a model sees them: frames, pictures and subtitles, with their times."""
