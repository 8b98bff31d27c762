//go:build !race

package lab

// raceSuffix marks the programs that are built with the race detector; this test is not.
const raceSuffix = ""
