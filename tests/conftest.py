"""What all tests share."""

from toy import toy  # noqa: F401  (a fixture)
