"""What a distilled data set gives away of the texts that it was learned from: figures, no promises."""
