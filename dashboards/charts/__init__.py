"""One function, one chart: data in, Vega-Lite out, with words that say what is seen."""

from altair.utils.schemapi import disable_debug_mode

# Each part of a chart would be held against the schema as it is made, which takes a third of the
# time; tests hold whole charts against it.
disable_debug_mode()
