"""The 128 words of the demo model; a word's position in `TOKENS` is its token id."""

COLORS = ("red", "green", "blue", "yellow", "purple", "cyan")
SHAPES = ("circle", "square", "triangle", "cross", "ring")
DIGITS = tuple("0123456789")
LETTERS = tuple("ABCDEFGHIKLMNOPRSTUWY")  # the letters that WORDS use
_WORDS = """
CAT DOG SUN BUS CUP HAT BED PEN MAP CAR TOY KEY LEG ARM OWL FIR
NUT PIG RAT COW BOB GUM HEN ICE LIP MUD NET OIL PAN RUG TEA WEB
"""
WORDS = tuple(_WORDS.split())

SPECIAL = ("<pad>", "<bos>", "<eos>", "<image>", "<unk>")
_ROLES = ("user", "assistant", "?")
_CHOICES = ("choice_A", "choice_B", "choice_C", "choice_D")  # kept for multiple choice; untrained
_QUESTION_WORDS = """
what color is the there a shape one how many ones which side of left right above below at
top bottom digit largest larger tallest shortest bar taller than value say does text
first second third letter in it object
"""

TOKENS: tuple[str, ...] = (
    *SPECIAL,
    *_ROLES,
    *COLORS,
    *SHAPES,
    *DIGITS,
    *LETTERS,
    *WORDS,
    "yes",
    "no",
    *_CHOICES,
    *_QUESTION_WORDS.split(),
)
