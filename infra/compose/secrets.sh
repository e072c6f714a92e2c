#!/bin/sh
# Makes every password, key and certificate of compose.yaml, once, as files in infra/compose/secrets: `sh secrets.sh`.
# Nobody else may enter the folder. Within it all may read, since each container reads its files as its own user.
set -eu
umask 077
cd "$(dirname "$0")"
[ ! -e secrets ] || { echo "infra/compose/secrets is there already; delete it to make new ones" >&2; exit 1; }
rm -rf secrets.new  # of a call that was stopped
mkdir secrets.new
cd secrets.new

random() { openssl rand -hex 24; }  # 192 bits, and nothing to quote in a URL or in JSON

database=$(random)
printf %s "$database" > postgres

api=$(random)
cat > prefect.toml << END
active = "segmint"
[profiles.segmint]
PREFECT_API_AUTH_STRING = "admin:$api"
END
cat > prefect-server.toml << END
active = "segmint"
[profiles.segmint]
PREFECT_SERVER_API_AUTH_STRING = "admin:$api"
PREFECT_API_DATABASE_CONNECTION_URL = "postgresql+asyncpg://prefect:$database@postgres:5432/prefect"
END

# One key, and it may only use the bucket "segmint". There is no key of an administrator.
key=$(random)
secret=$(random)
cat > aws << END
[default]
aws_access_key_id = $key
aws_secret_access_key = $secret
END
sed "s/ACCESS_KEY/$key/; s/SECRET_KEY/$secret/" ../s3.template.json > s3.json
# SeaweedFS' own calls. Without these keys its gRPC port would make anybody an administrator.
cat > security.toml << END
[jwt.signing]
key = "$(random)"
[jwt.signing.read]
key = "$(random)"
[jwt.filer_signing]
key = "$(random)"
[jwt.filer_signing.read]
key = "$(random)"
END

# Dask's processes accept each other by this certificate, and nobody else. It is its own authority, for ten years.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=segmint-dask \
  -keyout dask.key -out dask.crt 2> /dev/null
cat dask.key dask.crt > dask.pem
rm dask.key dask.crt

chmod 444 -- *
mv ../secrets.new ../secrets
