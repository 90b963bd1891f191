"""``python -m aldente``, and what ``accelerate launch -m aldente`` starts."""

from aldente.main import main

main()
