/usr/lib/holdfast/after-upgrade
