"""Prompts to and from the folders of the PEFT library; none of it needs PEFT."""
