"""``aldente`` with a pretended GPU."""

from tests.pretended_gpu import pretend

pretend()

from aldente.main import main  # noqa: E402

main()
