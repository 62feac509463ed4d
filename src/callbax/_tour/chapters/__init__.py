"""The tour's chapters, whose code is 76 columns wide: a terminal of 80 shows it as it is."""

# In order. Some need an optional package, and cannot tell their title without it.
CHAPTERS = (
    "why_callbacks",
    "pure_callback",
    "io_callback",
    "debug_callback",
    "errors",
    "bessel",
    "devices",
    "digits",
    "every_day",
    "installed",
)
