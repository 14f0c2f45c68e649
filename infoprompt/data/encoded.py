"""One input as token ids and prompt slots, not padded."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EncodedText:
    """One input, not padded; the lists run over its positions."""

    input_ids: list[int]
    slots: list[int]
    """Index of the prompt vector, -1 at a real token."""
    segments: list[int]
    mask_index: int
    """Position of the mask token, 0 where there is none."""
    truncated: bool
    words: tuple[int, ...] = ()
    """Position of each word's first token, for tagging; words that were cut off are not there."""
    entities: tuple[int, int] | None = None
    """Positions of the markers that open the two entities of a relation."""
    slots_counted: bool = False
    """Whether a prompt slot counts as a position, so that the real tokens behind it move."""

    @property
    def positions(self) -> list[int]:
        """Index among the real tokens; a prompt slot has its left neighbour's, so real tokens keep theirs."""
        if self.slots_counted:
            return list(range(len(self.slots)))
        count = -1
        positions = []
        for slot in self.slots:
            count += slot < 0
            positions.append(max(count, 0))
        return positions

    def without_prompt(self) -> "EncodedText":
        """The same text with its prompt slots taken out."""
        kept = [index for index, slot in enumerate(self.slots) if slot < 0]
        place = {index: new for new, index in enumerate(kept)}
        entities = None if self.entities is None else (place[self.entities[0]], place[self.entities[1]])
        return EncodedText(
            input_ids=[self.input_ids[index] for index in kept],
            slots=[-1] * len(kept),
            segments=[self.segments[index] for index in kept],
            mask_index=place.get(self.mask_index, 0),  # 0 stands for no mask, and may be a slot
            truncated=self.truncated,
            words=tuple(place[index] for index in self.words),
            entities=entities,
        )
