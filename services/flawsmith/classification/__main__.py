"""`python -m flawsmith.classification api|worker|migrate`."""

from flawsmith.classification.service import DEFINITION
from flawsmith.common.process import main

main(DEFINITION)
