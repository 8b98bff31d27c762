package main

import (
	"time"

	"github.com/spf13/pflag"

	"kmsfs/keysource"
)

// keyPlan says how long a mount keeps data keys, and how long it waits for them. Zero values are the defaults.
type keyPlan struct {
	MaxAge, Idle time.Duration
	Grace        time.Duration // negative: none
	Timeout      time.Duration
}

// Times of a call of the keysource in a mount. All its attempts end by keyPlan.Timeout; a short outage of the KMS, such as
// its restart, is waited for.
const (
	defaultKeyMaxAge  = 5 * time.Minute // that of keysource.Cache
	defaultKeyTimeout = 20 * time.Second
	attemptTimeout    = 5 * time.Second
	retryMaxDelay     = 2 * time.Second
	retryAttempts     = 100 // more than fit into the time
	deadlineMargin    = 5 * time.Second
)

// timeout is how long an operation waits for a key.
func (k keyPlan) timeout() time.Duration {
	if k.Timeout > 0 {
		return k.Timeout
	}
	return defaultKeyTimeout
}

// maxAge is how long a data key is kept, also one that was made ahead.
func (k keyPlan) maxAge() time.Duration {
	if k.MaxAge > 0 {
		return k.MaxAge
	}
	return defaultKeyMaxAge
}

// confirmEvery is how often the key of an open file is asked for again, of the cache, which keeps it for that much less than
// maxAge.
func (k keyPlan) confirmEvery() time.Duration { return k.maxAge() / 10 }

// decorate puts over ks what a mount needs: cache over retry, and over these, where the URL asks for them, branch keys,
// which the cache then keeps.
func (k keyPlan) decorate(ks keysource.Keysource, branch keysource.BranchLimits) (keysource.Keysource, error) {
	retry := keysource.NewRetry(ks, keysource.RetryConfig{MaxAttempts: retryAttempts, MaxDelay: retryMaxDelay,
		AttemptTimeout: attemptTimeout, Timeout: k.timeout()})
	cache := keysource.NewCache(retry, keysource.CacheConfig{MaxAge: k.maxAge() - k.confirmEvery(), MaxIdle: k.Idle, Grace: k.Grace})
	if branch == (keysource.BranchLimits{}) {
		return cache, nil
	}
	b, err := keysource.NewBranch(cache, branch, nil)
	if err != nil {
		cache.Close()
		return nil, err
	}
	return b, nil
}

// add defines the flags.
func (k *keyPlan) add(f *pflag.FlagSet) {
	f.Var((*timeValue)(&k.MaxAge), "key-cache-max-age",
		"how long a data key is kept: a disabled CMK or a changed policy counts after that `TIME` (default 5m)")
	f.Var((*timeValue)(&k.Idle), "key-cache-idle", "how long a data key is kept that nobody asks for: `TIME` (default 1m)")
	f.Var((*graceValue)(&k.Grace), "key-cache-grace",
		"how much longer it serves while the keysource cannot be reached: `TIME`, 0 for not (default 15m)")
	f.Var((*timeValue)(&k.Timeout), "key-timeout", "how long an operation waits for the keysource: `TIME` (default 20s)")
}

// timeValue is a flag with a time that is longer than 0.
type timeValue time.Duration

// Set implements pflag.Value.
func (t *timeValue) Set(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return faultf(errUsage, "%q is not a time longer than 0, such as 30s or 5m", s)
	}
	*t = timeValue(d)
	return nil
}

// String implements pflag.Value.
func (t *timeValue) String() string {
	if *t == 0 {
		return ""
	}
	return time.Duration(*t).String()
}

// Type implements pflag.Value.
func (t *timeValue) Type() string { return "duration" }

// graceValue is a flag with a time, of which 0 means none and not the default.
type graceValue time.Duration

// Set implements pflag.Value.
func (g *graceValue) Set(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return faultf(errUsage, "%q is not a time, such as 15m", s)
	}
	if d == 0 {
		d = -1
	}
	*g = graceValue(d)
	return nil
}

// String implements pflag.Value.
func (g *graceValue) String() string {
	if *g == 0 {
		return ""
	}
	return max(time.Duration(*g), 0).String()
}

// Type implements pflag.Value.
func (g *graceValue) Type() string { return "duration" }
