"""Cross-entropy of a frozen language-model head, whose logits are never held."""
