#!/bin/sh
rc-service -q --ifstarted holdfast stop 2>/dev/null || true
rc-update -q del holdfast 2>/dev/null || true
exit 0
