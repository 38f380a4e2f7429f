"""What a model reads: contexts and items as guarded JSON, prompts around them."""

from crsearch.context.guard import Guard
from crsearch.context.prompts import PLAIN, Frame, Prompts, Task, chat_frame
from crsearch.context.serialiser import Encoded, Serialiser, parse_context

__all__ = ["PLAIN", "Encoded", "Frame", "Guard", "Prompts", "Serialiser", "Task", "chat_frame", "parse_context"]
