"""The shared language of the domain: label names, report sections, mentions, vocabulary. No torch, no Lightning."""
