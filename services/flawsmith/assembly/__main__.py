from flawsmith.assembly.service import DEFINITION
from flawsmith.common.process import main

main(DEFINITION)
