#!/bin/sh
addgroup -S holdfast 2>/dev/null || true
adduser -S -D -H -h /var/lib/holdfast -s /sbin/nologin -G holdfast -g "Holdfast agent" holdfast 2>/dev/null || true
exit 0
