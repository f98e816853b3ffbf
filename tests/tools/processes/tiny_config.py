"""A config file whose values stand in the environment variable TINY: for real processes of tiny runs."""

import ast
import os

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(ast.literal_eval(os.environ["TINY"]))
