//go:build race

package lab

// raceSuffix marks the programs that are built with the race detector, as this test is.
const raceSuffix = "-race"
