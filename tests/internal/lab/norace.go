//go:build !race

package lab

// Race says whether this test is built with the race detector; the programs it builds are too.
const Race = false

// raceSuffix marks the programs that are built with the race detector; this test is not.
const raceSuffix = ""
