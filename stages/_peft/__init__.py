"""Adapters of the form W x + s B N A x inside PEFT, through PEFT's own seams: a layer, a variant, a configuration."""

import logging

# PEFT imports bitsandbytes where it is installed, which then misses an optional kernel of its own.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
