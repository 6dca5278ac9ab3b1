"""From proposals to a front: record, driver, segments, stopping."""
