from flawsmith.common.process import main
from flawsmith.generation.service import DEFINITION

main(DEFINITION)
