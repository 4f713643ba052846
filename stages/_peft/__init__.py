"""Adapters of the form W x + s B N A x inside PEFT, through PEFT's own seams: a layer, a variant, a configuration."""
