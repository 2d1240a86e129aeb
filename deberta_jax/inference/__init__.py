"""From texts to answers: fill masks, embed, classify, tag, answer."""
