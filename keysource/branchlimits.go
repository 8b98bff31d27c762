package keysource

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// BranchLimits say when a [Branch] begins a new branch key. The zero value means that there are no branch keys.
type BranchLimits struct {
	// MaxAge is how long one branch key wraps new data keys: 1 s to 720 h, in whole seconds.
	MaxAge time.Duration
	// MaxCount is how many data keys it wraps: 1 to 2^32.
	MaxCount int64
}

// DefaultBranchLimits are those of the option branch=default: an hour, and ten thousand data keys.
func DefaultBranchLimits() BranchLimits { return BranchLimits{MaxAge: time.Hour, MaxCount: 10000} }

// Limits of BranchLimits.
const (
	maxBranchAge   = 720 * time.Hour
	maxBranchCount = 1 << 32
)

// ParseBranchLimits reads "default", or an age and a count, "1h,10000". What is out of bounds is ErrInvalidArgument.
func ParseBranchLimits(s string) (BranchLimits, error) {
	if s == "default" {
		return DefaultBranchLimits(), nil
	}
	age, count, ok := strings.Cut(s, ",")
	var l BranchLimits
	var ageErr, countErr error
	l.MaxAge, ageErr = time.ParseDuration(age)
	l.MaxCount, countErr = strconv.ParseInt(count, 10, 64)
	if !ok || ageErr != nil || countErr != nil {
		return BranchLimits{}, invalid(fmt.Sprintf("branch keys: %q is not an age and a count, such as 1h,10000", s))
	}
	return l, l.Validate()
}

// Validate refuses, as ErrInvalidArgument, limits that a Branch does not keep.
func (l BranchLimits) Validate() error {
	if l.MaxAge < time.Second || l.MaxAge > maxBranchAge || l.MaxAge%time.Second != 0 {
		return invalid("branch keys: the age is 1s to 720h in whole seconds")
	}
	if l.MaxCount < 1 || l.MaxCount > maxBranchCount {
		return invalid("branch keys: the count is 1 to 4294967296")
	}
	return nil
}

// String is the form that ParseBranchLimits reads; "" for the zero value.
func (l BranchLimits) String() string {
	if l == (BranchLimits{}) {
		return ""
	}
	return l.MaxAge.String() + "," + strconv.FormatInt(l.MaxCount, 10)
}
