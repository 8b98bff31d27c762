package awskms

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go/logging"

	"kmsfs/keysource"
)

// Config says which KMS to use. The zero value is that of AWS, in the region that the environment says.
type Config struct {
	// Region is the AWS region; empty for that of Key, where Key is an ARN, else for what the environment says.
	Region string
	// Key is the CMK that the caller will use most; only its region counts.
	Key keysource.KeyRef
	// Endpoint is an https URL, an http URL of this machine, or unix: and the path of a socket; empty for that of AWS, or
	// what the environment says.
	Endpoint string
	// Endpoints are those of other regions, by region; where Endpoint is empty, that of AWS serves where there is none here.
	Endpoints map[string]string
	// Profile is the name of a profile in the AWS configuration files; empty for what the environment says.
	Profile string
	// FIPS and DualStack choose AWS's endpoints with validated cryptography and with IPv6.
	FIPS, DualStack bool
	// Timeout bounds each call, its connection included; 0 is 10 s.
	Timeout time.Duration
}

// FromURL is the config that an awskms: URL stands for.
func FromURL(u keysource.URL) Config {
	return Config{Region: u.Region, Key: u.Key, Endpoint: u.Endpoint, Profile: u.Profile, FIPS: u.FIPS, DualStack: u.DualStack}
}

// defaultTimeout bounds a call where Config does not.
const defaultTimeout = 10 * time.Second

// Open makes a client. It reads the configuration and asks for credentials, but calls no KMS. A region that nobody names
// and an endpoint that would carry keys in clear are ErrInvalidArgument, missing credentials ErrDenied, each with a hint.
func Open(ctx context.Context, cfg Config) (*Client, error) {
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Endpoint != "" {
		if err := keysource.CheckEndpoint(cfg.Endpoint); err != nil {
			return nil, err
		}
	}
	for _, endpoint := range cfg.Endpoints {
		if err := keysource.CheckEndpoint(endpoint); err != nil {
			return nil, err
		}
	}
	if ref, err := cfg.Key.Parse(); err == nil && cfg.Region == "" {
		cfg.Region = ref.Region
	}
	ac, err := awsconfig.LoadDefaultConfig(ctx, cfg.options()...)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, keysource.WithHint(invalid("AWS configuration: "+reason(err)),
			"see AWS_PROFILE and AWS_CONFIG_FILE; the option profile= names a profile of ~/.aws/config")
	}
	if ac.Region == "" {
		return nil, keysource.WithHint(invalid("no AWS region is configured"),
			"add region=REGION to the key source URL, or set AWS_REGION")
	}
	c := &Client{timeout: cfg.Timeout}
	var bad error
	var idle []func() // guarded by c.regions.mu once Open has returned
	c.idle = func() {
		c.regions.mu.Lock()
		defer c.regions.mu.Unlock()
		for _, f := range idle {
			f()
		}
	}
	c.regions = regions{home: ac.Region, endpoint: cfg.Endpoint, endpoints: cfg.Endpoints}
	c.regions.make = func(region, custom string) *kms.Client {
		return kms.NewFromConfig(ac, func(o *kms.Options) {
			o.Region = region
			if endpoint := aws.ToString(o.BaseEndpoint); endpoint != "" { // the environment's has not been checked yet
				bad = keysource.CheckEndpoint(endpoint)
			}
			if custom != "" {
				bad = nil
				o.BaseEndpoint = aws.String(baseURL(custom))
			}
			o.Retryer, o.RetryMaxAttempts = skewRetryer{}, 0
			o.HTTPClient = newTransport(o.HTTPClient, custom)
			idle = append(idle, closeIdle(o.HTTPClient))
		})
	}
	c.api = c.regions.make(ac.Region, cfg.Endpoint)
	if bad != nil {
		return nil, fmt.Errorf("endpoint of the AWS configuration: %w", bad)
	}
	if c.regions.endpoint == "" { // the environment's serves one region
		c.regions.endpoint = aws.ToString(c.api.Options().BaseEndpoint)
	}
	if err := checkCredentials(ctx, ac.Credentials, cfg.Timeout); err != nil {
		return nil, err
	}
	return c, nil
}

// options are what cfg says in the words of the SDK. Whatever the environment says, nothing is logged by the SDK.
func (cfg Config) options() []func(*awsconfig.LoadOptions) error {
	out := []func(*awsconfig.LoadOptions) error{
		awsconfig.WithLogger(logging.Nop{}),
		awsconfig.WithClientLogMode(0),
		awsconfig.WithLogConfigurationWarnings(false),
	}
	if cfg.Region != "" {
		out = append(out, awsconfig.WithRegion(cfg.Region))
	}
	if cfg.Profile != "" {
		out = append(out, awsconfig.WithSharedConfigProfile(cfg.Profile))
	}
	if cfg.FIPS {
		out = append(out, awsconfig.WithUseFIPSEndpoint(aws.FIPSEndpointStateEnabled))
	}
	if cfg.DualStack {
		out = append(out, awsconfig.WithUseDualStackEndpoint(aws.DualStackEndpointStateEnabled))
	}
	return out
}

// checkCredentials tells missing credentials at once, rather than at the first call and after many attempts.
func checkCredentials(ctx context.Context, p aws.CredentialsProvider, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := errors.New("none are configured")
	if p != nil {
		_, err = p.Retrieve(ctx)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	}
	denied := &keysource.Error{Kind: keysource.ErrDenied, Message: "no AWS credentials: " + reason(err)}
	return keysource.WithHint(denied, "aws configure, aws sso login, or set AWS_PROFILE; see the AWS documentation on credentials")
}

// reason is the end of an error of the SDK, which names all its layers, in one line.
func reason(err error) string {
	text := strings.Join(strings.Fields(err.Error()), " ")
	if len(text) > 300 {
		text = text[:300] + "..."
	}
	return text
}

// invalid is an ErrInvalidArgument with a sentence.
func invalid(message string) error {
	return keysource.NewError("", "", keysource.CodeValidation, message)
}
