//go:build !failpoints

package failpoint

// Built reports whether this program can be made to die at a point.
const Built = false

// Hit is where a program built with the tag failpoints may die.
func Hit(Point) {}

// Hang is where a program built with the tag failpoints may hang.
func Hang(Loop) {}
